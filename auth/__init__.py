"""Auth: who may log in, who is logged in, and the keys that sign access tokens."""
