//! How long does a product of two matrices take? By its shape: tiles that are not full, and waves of tiles that leave units idle.

use crate::hardware::Accelerator;

/// Rows and columns of the tile that a unit computes at once, in the libraries' kernels for large products; either way round.
const TILE: [f64; 2] = [128.0, 256.0];
/// Length of the sum within which a tile's beginning and end would take as long as its sums: assumed.
const RAMP: f64 = 128.0;

/// `groups` products of the same size: `rows x inner` by `inner x outer`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Products that are computed together, one for each expert.
    pub groups: f64,
    /// Rows of each.
    pub rows: f64,
    /// Length of the sums.
    pub inner: f64,
    /// Columns of each.
    pub outer: f64,
}

impl Product {
    /// One product.
    pub fn one(rows: f64, inner: f64, outer: f64) -> Self {
        Self { groups: 1.0, rows, inner, outer }
    }

    /// The product that gives the gradient of its rows.
    pub fn of_inputs(self) -> Self {
        Self { inner: self.outer, outer: self.inner, ..self }
    }

    /// The product that gives the gradient of its matrix.
    pub fn of_weights(self) -> Self {
        Self { rows: self.inner, inner: self.rows, ..self }
    }

    /// FLOPs, a multiply and an add being two.
    pub fn flops(self) -> f64 {
        2.0 * self.groups * self.rows * self.inner * self.outer
    }

    /// Numbers that are read and written once.
    fn elements(self) -> f64 {
        self.groups * (self.rows * self.inner + self.inner * self.outer + self.rows * self.outer)
    }

    /// Share of a device's arithmetic that has something to do: tiles at the edges are part empty, the last wave of tiles leaves units idle, and each tile
    /// begins and ends.
    pub fn fill(self, accelerator: &Accelerator) -> f64 {
        // Only where products are computed by such units.
        let Some(units) = &accelerator.units else { return 1.0 };
        let [short, long] = TILE;
        let tiles = |rows: f64, columns: f64| self.groups * (self.rows / rows).ceil() * (self.outer / columns).ceil();
        let full = self.groups * self.rows * self.outer / (short * long);
        let used = |tiles: f64| full / ((tiles / units.value).ceil() * units.value);
        used(tiles(short, long)).max(used(tiles(long, short))) * self.inner / (self.inner + RAMP)
    }

    /// Seconds at `flops` and `bytes` per second, each number of so many bytes: the longer of arithmetic and traffic.
    pub fn seconds(self, accelerator: &Accelerator, flops: f64, bytes: f64, number: f64) -> f64 {
        if self.flops() == 0.0 {
            return 0.0;
        }
        (self.flops() / (flops * self.fill(accelerator))).max(self.elements() * number / bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Catalogue;

    #[test]
    fn small_products_leave_units_idle() {
        let catalogue = Catalogue::embedded().unwrap();
        let h100 = catalogue.get("h100").unwrap();
        let large = Product::one(8192.0, 8192.0, 8192.0);
        // 64 x 32 tiles on 132 units: 16 waves, the last half full.
        assert!((large.fill(h100) - 2048.0 / (16.0 * 132.0) * 8192.0 / 8320.0).abs() < 1e-12);
        // Half a tile is a whole one's work.
        assert!(Product::one(64.0, 8192.0, 8192.0).fill(h100) < 0.51);
        // As many rows spread over experts fill no more than together.
        let spread = Product { groups: 64.0, rows: 128.0, inner: 8192.0, outer: 1024.0 };
        assert!(spread.fill(h100) <= Product::one(8192.0, 8192.0, 1024.0).fill(h100));
        for product in [large, spread] {
            assert_eq!(product.of_inputs().flops(), product.flops());
            assert_eq!(product.of_weights().flops(), product.flops());
        }
        // However few the rows, the matrix has to be read.
        let row = Product::one(1.0, 8192.0, 8192.0).seconds(h100, 1e18, 3e12, 2.0);
        assert!((row / (2.0 * 8192.0 * 8192.0 / 3e12) - 1.0).abs() < 0.01);
        // A device that is not known to compute in tiles is always full.
        assert_eq!(large.fill(catalogue.get("cpu").unwrap()), 1.0);
    }
}
