"""Names and MACs of what zedrouter makes, from the persistent numbers. EVE's zedrouter, the same patterns.

One difference: EVE numbers an overlay's vif by the bridge, so two apps on one mesh get the same interface name;
here it is numbered by the app, like an underlay's.
"""

from typing import Final

HIGHEST_VIF: Final = 255  # one byte of a MAC


def bridge_name(bridge_num: int) -> str:
    return f"bn{bridge_num}"


def bridge_mac(bridge_num: int) -> bytes:
    return bytes((0x00, 0x16, 0x3E, 0x06, 0x00, bridge_num))


def underlay_vif(position: int, app_num: int) -> str:
    """`position` counts an app's underlays from 1."""
    return f"nbu{position}x{app_num}"


def underlay_mac(position: int, app_num: int) -> bytes:
    return bytes((0x00, 0x16, 0x3E, 0x00, position, app_num))


def overlay_vif(position: int, app_num: int) -> str:
    """`position` counts an app's overlays from 1."""
    return f"nbo{position}x{app_num}"


def overlay_mac(position: int, app_num: int) -> bytes:
    return bytes((0x00, 0x16, 0x3E, 0x01, position, app_num))


def management_vif(app_num: int) -> str:
    """The device's own overlay."""
    return f"dbo1x{app_num}"


def management_mac(app_num: int) -> bytes:
    return bytes((0x00, 0x16, 0x3E, 0x02, 0x00, app_num))
