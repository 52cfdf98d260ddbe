"""The listener for other nodes: where it cannot listen, the error says where, why, and what to do."""

import pytest

from scalesocket.config.addresses import Endpoint
from scalesocket.node.node import listen
from scalesocket.server.addresses import ListenError


def test_an_address_in_use_is_reported_with_a_hint() -> None:
    with listen(Endpoint("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]

        with pytest.raises(ListenError) as raised:
            listen(Endpoint("127.0.0.1", port))

    expected = (
        f"cluster.listen: can't listen at 127.0.0.1:{port}: address already in use (is another node running? choose another port)"
    )
    assert str(raised.value) == expected
