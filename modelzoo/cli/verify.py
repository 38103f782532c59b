"""stub"""


def command() -> None:
    """stub"""
