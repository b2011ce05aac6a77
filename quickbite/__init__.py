"""`python -m quickbite`: commands for the person on call. They use only the admin API of the services."""
