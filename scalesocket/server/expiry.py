"""Warns in the log, once a day, of the end of a certificate in use."""

import asyncio
import time
from typing import Final

import structlog

from scalesocket.config.validity import Validity, show_time

log = structlog.get_logger("tls")

CHECK: Final = 3600.0
"""Seconds between two checks. Each reads the clock anew, which an administrator may have set meanwhile."""
HINT: Final = "renew it: a new pair in the same files is used at once"


class ExpiryWarnings:
    """Warnings of the end of one certificate at a time, by a timer that runs only while there is one."""

    def __init__(self, key: str) -> None:
        """`key`: the key of the site file that names the certificate, for the log."""
        self._log = log.bind(key=key)
        self._validity: Validity | None = None
        self._logged: str | None = None
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, validity: Validity | None) -> None:
        """Warn of the end of this certificate from now on; None for no certificate. Calls with the same one repeat no warning."""
        if validity != self._validity:
            self.stop()
            self._validity = validity
            if validity is not None:
                self._check(validity)

    def stop(self) -> None:
        """Warn of nothing."""
        self._validity = self._logged = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _check(self, validity: Validity) -> None:
        text = validity.warn(time.time())
        if text is not None and text != self._logged:
            self._log.warning(
                f"certificate {text}", begins_at=show_time(validity.begins_at), ends_at=show_time(validity.ends_at), hint=HINT
            )
        self._logged = text
        self._timer = asyncio.get_running_loop().call_later(CHECK, self._check, validity)
