//! Finite differences, the second witness of gradients.

use model::Decoder;
use spec::ParameterTable;

/// Asserts that `loss` falls and rises with the steepest element of every parameter as its gradient says.
pub fn agree(
    decoder: &mut Decoder,
    table: &ParameterTable,
    gradients: &Decoder,
    loss: &mut dyn FnMut(&Decoder) -> f64,
) {
    let mut checked = 0;
    for parameter in table.iter() {
        let gradient = gradients.read_parameter(parameter.id).unwrap();
        let values = decoder.read_parameter(parameter.id).unwrap();
        let (at, &slope) = gradient.iter().enumerate().max_by(|a, b| a.1.abs().total_cmp(&b.1.abs())).unwrap();
        if slope.abs() < 0.05 {
            continue;
        }
        let mut loss_at = |step: f32| {
            let mut moved = values.clone();
            moved[at] += step;
            assert!(decoder.write_parameter(parameter.id, &moved));
            loss(decoder)
        };
        // A step may cross the kink of a clamp or change an expert; then a smaller one does not.
        let agrees = [4e-3, 1e-3, 2.5e-4].into_iter().any(|step| {
            let measured = (loss_at(step) - loss_at(-step)) / f64::from(2.0 * step);
            (measured - f64::from(slope)).abs() < 0.03 * f64::from(slope.abs()) + 0.01
        });
        decoder.write_parameter(parameter.id, &values);
        assert!(agrees, "{}: element {at}, gradient {slope}", parameter.name);
        checked += 1;
    }
    assert!(checked > 20, "only {checked} parameters have a gradient to speak of");
}
