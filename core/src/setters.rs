//! Chained setters for `#[non_exhaustive]` structs, which other crates cannot build with a literal.

/// `setters!(Limits { capacity: Option<u64>, image: ImageLimit });` gives `Limits::default().capacity(Some(1 << 40))`.
#[doc(hidden)]
#[macro_export]
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
