"""The storefront: the page where a visitor orders something, and sees each step of its saga live."""
