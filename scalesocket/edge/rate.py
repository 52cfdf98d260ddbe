"""Rate limits of a client: a token bucket for messages and one for bytes. They slow a client down and refuse nothing."""

from scalesocket.config.model import Rate


class RateMeter:
    """Measures one client. Each second gives `rate` tokens, up to a burst; what is spent beyond them must be waited for."""

    __slots__ = ("_at", "_bytes", "_messages", "rate")

    def __init__(self, rate: Rate, now: float) -> None:
        """Start with a full bucket at `now`, in seconds."""
        self.rate = rate
        self._at = now
        self._messages = self._most_messages
        self._bytes = float(rate.bytes or 0)

    def spend(self, messages: int, size: int, now: float) -> float:
        """Count messages and bytes; return for how many seconds nothing more should be read, 0.0 for none."""
        rate, passed = self.rate, now - self._at
        self._at = now
        wait = 0.0
        if rate.messages is not None:
            self._messages = min(self._most_messages, self._messages + passed * rate.messages) - messages
            wait = -self._messages / rate.messages
        if rate.bytes is not None:
            self._bytes = min(float(rate.bytes), self._bytes + passed * rate.bytes) - size
            wait = max(wait, -self._bytes / rate.bytes)
        return max(0.0, wait)

    @property
    def _most_messages(self) -> float:
        return float(self.rate.burst or self.rate.messages or 0)
