"""The images of a bag on their way into the dataset: decoded once each, kept in a file."""

from collections.abc import Collection, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

import h5py
import numpy as np
from numpy.typing import NDArray
from offrl_contract.reader import MalformedMessageError, MessageReader
from offrl_contract.robot import ImageTerm
from offrl_contract.sampling import Fault

from offrl_data.bags import Bag
from offrl_data.dataset_writer import Disk
from offrl_data.episodes import Ticks
from offrl_data.images import Pixels, decode_image
from offrl_data.message_definitions import MessageDefinitions

_ROWS = 64


class ImageFile(AbstractContextManager["ImageFile"]):
    """Holds the resized images that the ticks of a bag show, in a file beside its part."""

    def __init__(self, terms: Sequence[ImageTerm], part: Path) -> None:
        self._terms = terms
        self._path = part.with_suffix(".images")
        self._disk = Disk(self._path, "w+") if terms else None
        self._file = h5py.File(self._disk, "w") if self._disk else None
        self._kept: dict[str, NDArray[np.int64]] = {}
        """Messages in the file by term, in order."""

    def read(
        self, bag: Bag, ticks: Ticks, definitions: MessageDefinitions, topics: Collection[str]
    ) -> None:
        """Decode the images of all ticks; ticks whose image is damaged get a fault.

        `topics` are those that the ticks were read of: with others, a storage may put the messages
        of a topic with two senders in another order. Raises OSError where they cannot be written.
        """
        for term in self._terms:
            sample = ticks.images[term.name]
            shown = sample.faults == Fault.NONE
            wanted = np.unique(sample.values[shown].astype(np.int64))
            good = self._decode(bag, term, wanted, definitions, topics)
            bad = shown & ~np.isin(sample.values[:, 0], good)
            sample.faults[bad] = Fault.NOT_FINITE
            self._kept[term.name] = good

    def columns(
        self, term: ImageTerm, ticks: Ticks, first: int, last: int
    ) -> Iterator[tuple[str, Pixels]]:
        """Yield the images (n, h, w, c) of an episode's ticks with their column, a few at a time.

        The image of the tick `last` is where the last transition led.
        """
        assert self._file is not None
        messages = ticks.images[term.name].values[first : last + 1, 0].astype(np.int64)
        rows = np.searchsorted(self._kept[term.name], messages)
        for begin in range(0, len(rows), _ROWS):
            some = rows[begin : begin + _ROWS]
            low, high = int(some.min()), int(some.max())  # two senders' images are not in turn
            pixels = self._file[term.name][low : high + 1][some - low]
            left = last - first - begin
            yield f"images/{term.name}", pixels[:left]
            yield f"episodes/final_images/{term.name}", pixels[left:]

    def _decode(
        self,
        bag: Bag,
        term: ImageTerm,
        wanted: NDArray[np.int64],
        definitions: MessageDefinitions,
        topics: Collection[str],
    ) -> NDArray[np.int64]:
        """Write the wanted messages' images to the file; return those that could be decoded."""
        assert self._file is not None
        assert self._disk is not None
        topic = bag.topic(term.topic, term.type)
        reader = MessageReader(term.type, definitions.of(topic, bag.name)[0], topic.wire)
        if not len(wanted):
            return wanted
        chunks = (min(_ROWS, len(wanted)), *term.shape)
        column = self._file.create_dataset(
            term.name, (len(wanted), *term.shape), np.uint8, chunks=chunks
        )
        good: list[int] = []
        problems: list[str] = []
        before = 0
        for channel, block in bag.blocks(topics):
            if channel.topic != term.topic:
                continue
            count = len(block.received)
            for message in wanted[(wanted >= before) & (wanted < before + count)].tolist():
                raw = block.pick(np.array([message - before])).message(0)
                try:
                    column[len(good)] = decode_image(term, reader.read(raw))
                except MalformedMessageError as error:
                    problems.append(str(error))
                    continue
                good.append(message)
            before += count
            self._file.flush()
            self._disk.check()
        if problems:
            first = f"{term.topic}: {len(problems)} images cannot be decoded: {problems[0]}"
            bag.lose(first, len(problems))
        return np.array(good, np.int64)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the file."""
        if self._file is not None and self._disk is not None:
            self._file.close()
            self._disk.close()
            self._path.unlink(missing_ok=True)
