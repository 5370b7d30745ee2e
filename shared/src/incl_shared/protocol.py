"""Which agents a platform works with.

A machine of a cloud runs the agent of an archive that somebody made once; the platform goes on without it. The number
is raised with a change that an agent must know of (reports, wanted lists, credentials), `OLDEST` when an older one
would do harm. One that is newer than the platform is let in: readers ignore what they do not know.
"""

from typing import Final

PROTOCOL: Final = 1
OLDEST: Final = 1
