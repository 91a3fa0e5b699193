//! Chained setters for option structs, which other crates cannot build with a literal because they may get more fields.

/// `setters!(VhdOptions { align: Option<u64> });` defines `VhdOptions::default().align(Some(1 << 20))`.
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
