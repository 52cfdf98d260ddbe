"""IP addresses: loopback, and the blocks that count as one client."""

from ipaddress import IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalesocket.wire.address import block_of, is_loopback, parse_address


@pytest.mark.parametrize("address", ["127.0.0.1", "127.255.255.254", "::1", "::1%lo", "::ffff:127.0.0.1", "0:0::1"])
def test_loopback_addresses(address: str) -> None:
    assert is_loopback(address)


@pytest.mark.parametrize(
    "address", ["", "localhost", "128.0.0.1", "0.0.0.0", "::", "::2", "::ffff:192.0.2.1", "fe80::1%lo", "127.1"]
)
def test_other_addresses(address: str) -> None:
    assert not is_loopback(address)


@pytest.mark.parametrize(
    ("address", "block"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("::FFFF:c000:201", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("2001:DB8:1:3::1", "2001:db8:1:3::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::/64"),
        ("not:an:address", "not:an:address"),
        ("", ""),
    ],
)
def test_blocks_are_ipv4_addresses_and_64s(address: str, block: str) -> None:
    assert block_of(address) == block


@given(st.ip_addresses(v=6), st.integers(0, 2**64 - 1))
def test_all_addresses_of_a_64_are_one_block(address: IPv6Address, host: int) -> None:
    neighbour = IPv6Address(int(address) >> 64 << 64 | host)

    if address.ipv4_mapped is None and neighbour.ipv4_mapped is None:
        assert block_of(str(neighbour)) == block_of(str(address))


@given(st.ip_addresses(v=4))
def test_an_ipv4_address_is_its_own_block_in_any_form(address: object) -> None:
    assert block_of(f"::ffff:{address}") == block_of(str(address)) == str(address) == str(parse_address(f"::ffff:{address}"))
