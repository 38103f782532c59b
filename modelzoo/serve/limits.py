"""What one request may ask for, and how much may be asked at a time."""

from typing import Annotated

from pydantic import Field

from modelzoo.base_config import Config

Positive = Annotated[int, Field(ge=1)]


class Limits(Config):
    """Beyond any of these a request is refused, before it costs anything."""

    max_body_bytes: Positive = 2**20
    """Bytes of a request's body."""
    body_seconds: Annotated[float, Field(gt=0)] = 30.0
    """Time for a body to arrive."""
    max_choices: Positive = 32
    """Completions of a request: its prompts times n."""
    max_requests: Positive = 64
    """Requests at a time, from the first byte read to the last one written."""
