"""Which song is next: each in its turn, those to be tried again first, no place twice at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Set

from stemsplit.batch.catalogue import Song


class Order:
    """Hands out the songs of a catalogue, and keeps only those that are in somebody's hands.

    Two lines of a list may name one place, or two that are one when they are file names. The second
    waits until the first is through, and then finds its stems: its own, or another song's.
    """

    def __init__(self, songs: Iterator[Song], find_places: Callable[[Song], Set[str]]) -> None:
        """Begin.

        Args:
            songs: Taken from when they are asked for.
            find_places: Gives what a song will write.
        """
        self._songs = songs
        self._find_places = find_places
        self._again: deque[Song] = deque()
        self._held: Song | None = None
        self._places: set[str] = set()
        self._is_exhausted = False

    @property
    def is_over(self) -> bool:
        """Whether no song is left to hand out."""
        return self._is_exhausted and not self._again and self._held is None

    def take(self) -> Song | None:
        """Return the next song; None where there is none until others are through, or at all."""
        if self._again:
            song = self._again.popleft()
        else:
            self._held = self._held or next(self._songs, None)
            if self._held is None:
                self._is_exhausted = True
                return None
            if not self._places.isdisjoint(self._find_places(self._held)):
                return None
            song, self._held = self._held, None
        self._places |= self._find_places(song)
        return song

    def finish(self, song: Song) -> None:
        """Let go of a song that is through."""
        self._places -= self._find_places(song)

    def give_back(self, song: Song) -> None:
        """Have a song done by somebody else; its place stays taken."""
        self._again.append(song)
