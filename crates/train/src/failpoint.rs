//! Moments that tests make longer, or fail: `LYCEUM_FAILPOINT=step:20,rename:50,save:full`.
//!
//! A number is how many milliseconds to stay, said on standard error on entering and on leaving, so that whoever kills the program knows
//! where it was. `full` behaves like a disk that is full. Without the variable a fail point costs a look at a list that is empty.

use std::io;
use std::sync::OnceLock;
use std::thread::sleep;
use std::time::Duration;

const VARIABLE: &str = "LYCEUM_FAILPOINT";

enum Action {
    Stay(Duration),
    Full,
}

/// Passes the point `name`.
pub(crate) fn pass(name: &str) -> io::Result<()> {
    static POINTS: OnceLock<Vec<(String, Action)>> = OnceLock::new();
    let points = POINTS.get_or_init(|| std::env::var(VARIABLE).map_or_else(|_| Vec::new(), |text| parse(&text)));
    match points.iter().find(|(point, _)| point == name) {
        None => Ok(()),
        Some((_, Action::Full)) => Err(io::Error::from(io::ErrorKind::StorageFull)),
        Some((_, Action::Stay(time))) => {
            eprintln!("failpoint enter {name}");
            sleep(*time);
            eprintln!("failpoint leave {name}");
            Ok(())
        }
    }
}

fn parse(text: &str) -> Vec<(String, Action)> {
    let point = |part: &str| {
        let (name, action) = part.split_once(':')?;
        let action = match action {
            "full" => Action::Full,
            time => Action::Stay(Duration::from_millis(time.parse().ok()?)),
        };
        Some((name.to_owned(), action))
    };
    let points = text.split(',').filter_map(|part| {
        let parsed = point(part);
        if parsed.is_none() {
            eprintln!("{VARIABLE}: {part:?} is not NAME:MILLISECONDS or NAME:full");
        }
        parsed
    });
    points.collect()
}
