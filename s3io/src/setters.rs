//! Chained setters for structs that other crates cannot build with a literal, since they may get further fields.

/// `setters!(ClientOptions { connections: usize });` gives `ClientOptions::default().connections(8)`.
macro_rules! setters {
    ($type:ident { $($field:ident: $value:ty),* $(,)? }) => {
        impl $type {
            $(
                #[doc = concat!("Sets the field `", stringify!($field), "`.")]
                #[must_use]
                pub fn $field(mut self, $field: $value) -> Self {
                    self.$field = $field;
                    self
                }
            )*
        }
    };
}
