"""What a device config is about, in short, for people and for programs."""

from typing import Any

from pillar.controller.config_pb2 import EdgeDevConfig
from pillar.terminal import printable


def facts(config: EdgeDevConfig) -> dict[str, Any]:
    """The device and its apps as plain values."""
    return {
        "device": config.id.uuid,
        "version": config.id.version,
        "apps": [
            {
                "uuid": app.uuidandversion.uuid,
                "version": app.uuidandversion.version,
                "name": app.displayname,
                "activate": app.activate,
                "images": [drive.image.name for drive in app.drives],
            }
            for app in config.apps
        ],
    }


def lines(config: EdgeDevConfig) -> list[str]:
    """The same for people; foreign text made harmless."""
    said = facts(config)
    text = [f"device {printable(said['device'])}, version {printable(said['version'])}, {len(said['apps'])} app(s)"]
    for app in said["apps"]:
        wanted = "to run" if app["activate"] else "not to run"
        images = ", ".join(printable(name) for name in app["images"]) or "no image"
        text.append(f"  {printable(app['uuid'])}  {printable(app['name'])}  {wanted}  {images}")
    return text
