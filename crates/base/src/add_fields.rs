//! Sums of structs of counts.

/// Adds fields of a value of `Self` to those of another one. All fields have to be named: the compiler rejects a list
/// with one left out.
#[macro_export]
macro_rules! add_fields {
    ($into:expr, $from:expr; $($field:ident),+) => {{
        let Self { $($field),+ } = $from;
        $($into.$field += $field;)+
    }};
}
