"""The settings of the migrations, read from the environment."""

from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The database, and the passwords of the roles."""

    model_config = SettingsConfigDict(frozen=True, use_attribute_docstrings=True)

    admin_database_url: str = "postgresql://postgres:postgres@127.0.0.1:5433/quickbite"
    """The database, with the role and password of a superuser."""
    orders_db_password: str = "orders"
    """The password of the role `orders_user`, set when the role is created."""
    inventory_db_password: str = "inventory"
    """The password of the role `inventory_user`, set when the role is created."""
    payments_db_password: str = "payments"
    """The password of the role `payments_user`, set when the role is created."""
    provider_db_password: str = "provider"
    """The password of the role `provider_user`, set when the role is created."""
    auth_db_password: str = "auth"
    """The password of the role `auth_user`, set when the role is created."""
    users_db_password: str = "users"
    """The password of the role `users_user`, set when the role is created."""
    products_db_password: str = "products"
    """The password of the role `products_user`, set when the role is created."""

    def password_of(self, service: str) -> str:
        return str(getattr(self, f"{service}_db_password"))
