"""The reference's variants, trained and measured side by side."""
