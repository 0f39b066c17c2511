//! A date that templates may print. There is no clock here: the caller says what time it is.

use std::fmt::Write;

/// A date and a time of day, as a calendar and a clock on the wall show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    /// The year, such as 2024.
    pub year: i32,
    /// The month, from 1.
    pub month: u32,
    /// The day of the month, from 1.
    pub day: u32,
    /// The hour, from 0 to 23.
    pub hour: u32,
    /// The minute.
    pub minute: u32,
    /// The second.
    pub second: u32,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const WEEKDAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];

impl CivilTime {
    /// The time in UTC, from seconds since 1970.
    pub fn from_unix(seconds: i64) -> Self {
        let (days, time) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400) as u32);
        // Years that begin in March put the leap day last; 400 of them have 146097 days.
        let from_march = days + 719_468;
        let (era, day_of_era) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
        Self {
            year: (era * 400 + year_of_era + i64::from(month <= 2)) as i32,
            month: month as u32,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u32,
            hour: time / 3600,
            minute: time / 60 % 60,
            second: time % 60,
        }
    }

    /// Formats as C's `strftime` does, in English; an unknown directive is the error.
    pub(crate) fn format(&self, format: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = format.chars();
        while let Some(c) = rest.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let directive = rest.next().ok_or("a lone % at the end")?;
            if directive == '-' {
                let directive = rest.next().ok_or("a lone %- at the end")?;
                let padded = self.directive(directive)?;
                let trimmed = padded.trim_start_matches('0');
                out.push_str(if trimmed.is_empty() { "0" } else { trimmed });
            } else {
                out.push_str(&self.directive(directive)?);
            }
        }
        Ok(out)
    }

    fn directive(&self, directive: char) -> Result<String, String> {
        let month = MONTHS.get(self.month.wrapping_sub(1) as usize).copied().ok_or("there is no such month")?;
        let weekday = WEEKDAYS[self.weekday()];
        let hour = match self.hour % 12 {
            0 => 12,
            hour => hour,
        };
        let mut out = String::new();
        let written = match directive {
            'Y' => write!(out, "{:04}", self.year),
            'y' => write!(out, "{:02}", self.year.rem_euclid(100)),
            'm' => write!(out, "{:02}", self.month),
            'B' => write!(out, "{month}"),
            'b' => write!(out, "{}", &month[..3]),
            'd' => write!(out, "{:02}", self.day),
            'e' => write!(out, "{:2}", self.day),
            'A' => write!(out, "{weekday}"),
            'a' => write!(out, "{}", &weekday[..3]),
            'H' => write!(out, "{:02}", self.hour),
            'I' => write!(out, "{hour:02}"),
            'p' => write!(out, "{}", if self.hour < 12 { "AM" } else { "PM" }),
            'M' => write!(out, "{:02}", self.minute),
            'S' => write!(out, "{:02}", self.second),
            'F' => return self.format("%Y-%m-%d"),
            'T' => return self.format("%H:%M:%S"),
            '%' => write!(out, "%"),
            other => return Err(format!("%{other} is not supported")),
        };
        written.map(|()| out).map_err(|error| error.to_string())
    }

    /// Days since Monday, by counting days from a March that lies before every year.
    fn weekday(&self) -> usize {
        let (year, month) = if self.month <= 2 { (self.year - 1, self.month + 9) } else { (self.year, self.month - 3) };
        let (year, month, day) = (i64::from(year), i64::from(month), i64::from(self.day));
        let days =
            365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + (153 * month + 2) / 5 + day;
        (days + 1).rem_euclid(7) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_strftime() {
        let time = CivilTime { year: 2024, month: 7, day: 4, hour: 12, minute: 30, second: 0 };
        assert_eq!(
            time.format("%d %b %Y, %A %-d %B %H:%M %I %p %y%%").as_deref(),
            Ok("04 Jul 2024, Thursday 4 July 12:30 12 PM 24%")
        );
        assert!(time.format("%Q").is_err());
        assert_eq!(CivilTime::from_unix(1_720_096_200), time);
        let leap = CivilTime::from_unix(951_782_400);
        assert_eq!(leap.format("%F %a").as_deref(), Ok("2000-02-29 Tue"));
        assert_eq!(CivilTime::from_unix(-1).format("%F %T %A").as_deref(), Ok("1969-12-31 23:59:59 Wednesday"));
    }
}
