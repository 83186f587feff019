"""The rooms of the studio: what each asks for, and how it is done."""

from __future__ import annotations

from accord.studio.rooms.compare import Compare
from accord.studio.rooms.edit import Edit
from accord.studio.rooms.read import Read
from accord.studio.rooms.repair import Repair
from accord.studio.work import Room

ROOMS: dict[str, Room] = {room.name: room for room in (Repair(), Read(), Edit(), Compare())}
