"""Users: what a person says of themselves, from registration to deletion."""
