"""The admin API of every service, for administrators only: what is parked, what is late, and how to repair it."""
