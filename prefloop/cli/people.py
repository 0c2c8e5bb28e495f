"""`prefloop label user`."""

from prefloop.configs.label import UserResetConfig
from prefloop.data.store import Store


def reset_password(config: UserResetConfig) -> None:
    """Print a link that sets a new password for somebody, once."""
    from prefloop.feedback.studio import passwords
    from prefloop.feedback.studio.prefix import parsed
    from prefloop.feedback.studio.service import Studio

    parsed(config.public_url)
    with Store.open(config.store, create=False) as store:
        studio = Studio(store)
        secret = passwords.new_reset(studio, passwords.find_account(studio, config.login), by=None)
    print(f"{config.login} is signed out everywhere. This link sets a new password, once, within a day:\n")
    print(f"    {config.public_url.rstrip('/')}/reset/{secret}\n")
    print("The studio must be running there (`prefloop label serve`); --public_url names another address.")
