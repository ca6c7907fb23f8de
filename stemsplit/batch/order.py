"""Which song is next: each in its turn, those to be tried again first, no place twice at once."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from stemsplit.batch.catalogue import Song


class Order:
    """Hands out the songs of a catalogue, and keeps only those that are in somebody's hands.

    Two lines of a list may name one place. The second waits until the first is through, and then
    finds its stems: its own, or another song's.
    """

    def __init__(self, songs: Iterator[Song]) -> None:
        """Take the songs from an iterator, when they are asked for."""
        self._songs = songs
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
            if self._held.output.casefold() in self._places:
                return None
            song, self._held = self._held, None
        self._places.add(song.output.casefold())
        return song

    def finish(self, song: Song) -> None:
        """Let go of a song that is through."""
        self._places.discard(song.output.casefold())

    def give_back(self, song: Song) -> None:
        """Have a song done by somebody else; its place stays taken."""
        self._again.append(song)
