"""The taps of one room: put on the way of its messages while there are any."""

from scalesocket.cleanup import logged_faults
from scalesocket.rooms.codec import Codec
from scalesocket.rooms.delivery import Delivery
from scalesocket.rooms.tap import Recipients, Tap, TappedRecipients


class Taps:
    """Attaches taps to the messages of one room, in both directions."""

    __slots__ = ("_codec", "_delivery", "_recipients", "_taps")

    def __init__(self, codec: Codec, delivery: Delivery, recipients: Recipients) -> None:
        """Begin without any. `recipients`: those of `delivery`, while there is no tap."""
        self._codec = codec
        self._delivery = delivery
        self._recipients = recipients
        self._taps: tuple[Tap, ...] = ()

    def attach(self, tap: Tap) -> None:
        """Show the messages of the room to `tap`, until `detach` or the end of the room."""
        self._show_to((*self._taps, tap))

    def detach(self, tap: Tap) -> None:
        """Show nothing more to `tap`. Calls may repeat."""
        self._show_to(tuple(other for other in self._taps if other is not tap))

    def end(self) -> None:
        """The room has ended."""
        taps = self._taps
        self._show_to(())
        for tap in taps:
            with logged_faults("tap of a room"):
                tap.room_ended()

    def _show_to(self, taps: tuple[Tap, ...]) -> None:
        self._taps = taps
        self._codec.show_input(taps)
        self._delivery.recipients = TappedRecipients(self._recipients, taps) if taps else self._recipients
