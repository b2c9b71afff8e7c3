"""All heads of tokens attend to rows: scores, softmax with a sink, mix, inverse rope.

Keys are values, and all heads share them. Rows are taken in groups (`sums.Sums`):

    alone       a token in a thread
    neighbours  some tokens in a thread: they see nearly the same rows; each row is decoded and read
                once, for the heads of all
    together    a token that threads share: of few rows its heads; of many the rows, in parts with
                tops, totals and sums of their own, which are joined in a fixed order

How rows are cut depends on their number, or on their positions: neither on the threads, nor on
which tokens are in a call, so neither changes a result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from firstlight.codegen.tvm_bridge import T
from firstlight.targets.cpu.kernels.heads import Heads
from firstlight.targets.cpu.kernels.norms import normalize
from firstlight.targets.cpu.kernels.rope import table
from firstlight.targets.cpu.kernels.schedule import loop, parallel_few
from firstlight.targets.cpu.kernels.sums import (
    GROUP,
    PARTS,
    Groups,
    Rows,
    Sums,
    even_groups,
    group_size,
    total_rows,
)
from firstlight.targets.cpu.kernels.vecmath import Expr, ceil_div, decode, settle, wide

PART_TILES = 16
"""Register tiles of rows of a part, at least about."""

SHARED_ROWS = 256
"""Rows up to which threads share the heads of a token. Of twice as many, reading all of them in
each thread takes longer than bringing together what threads have computed of parts."""

FRESH = 12
"""Rows of a group where threads share heads, about: room that was last written some layers ago is
no longer in a cache, and as slow to write as rows are to read."""

NEIGHBOURS = 64
"""Heads of all tokens that share a row's decoding: twice as many gain 0 to 3 % on Ice Lake, and
their sums and queries would fill 512 KB, the second-level cache of Zen 3."""


@dataclass(frozen=True)
class Attend:
    """The steps for tokens of queries q[S, H, c], results o[S, H, c].

    Attributes:
        heads: H.
        block: heads that are worked on at once: those of one token, or of `tokens`.
        eps: of the queries' norm, where they come as they were projected.
        first: of these heads among those that have sinks.
        rows: of a group, about.
    """

    heads: int
    block: Heads
    scale: float
    sink_codec: str
    sinks: Any
    freqs: Any
    pairs: int
    q: Any
    o: Any
    eps: float | None = None
    first: Expr = 0
    rows: int = GROUP

    @property
    def tokens(self) -> int:
        """Tokens that are worked on at once."""
        return self.block.heads // self.heads

    def of_neighbours(self) -> Attend:
        """The same for as many tokens as there is room for, if a register has heads of one."""
        many, block = max(1, NEIGHBOURS // self.heads), self.block
        if self.heads % block.lanes:
            return self
        return replace(self, block=Heads(many * self.heads, block.width, block.lanes))

    def alone(self, token: Expr, t: Expr, sources: Sequence[Rows]) -> None:
        """The token at position t."""
        sums = self._sums(1)
        groups = even_groups(sums.size, T.int32(0), total_rows(sources))
        sums.gather(lambda: self._panel(token, lambda _: t), sources, T.int32(0), groups)
        turn = self._turn(t)
        with T.serial(self.heads) as head:
            self._finish(sums, turn, token, head, head, T.int32(1))

    def neighbours(
        self, first: Expr, last: Expr, position: Callable[[Expr], Expr], window: int,
        sources: Sequence[Rows], entries: Rows | None, visible: Any,
    ) -> None:  # fmt: skip
        """Tokens first .. last, at most `tokens`.

        Args:
            position: of a token.
            window: tokens that a token sees, itself included.
            sources: the rows of positions that any of the tokens sees, one after the other.
            entries: the first entries, as many as any of them sees.
            visible: int32 of each token, how many it sees; negative: no result is wanted.
        """
        sums = self._sums(1)
        size = sums.size
        oldest = T.bind(T.max(position(first) - (window - 1), 0))
        before = T.bind(oldest % size)
        near = total_rows(sources)
        every = [*sources, entries] if entries else sources
        total = total_rows(every)
        near_groups = settle(ceil_div(near + before, size))

        def rows(number: Expr) -> tuple[Expr, Expr]:
            """Groups begin at multiples of their size, of positions and then of entries."""
            far = T.bind(number >= near_groups)
            start = T.bind(T.Select(far, near + (number - near_groups) * size,
                                    T.max(number * size - before, 0)))
            stop = T.Select(far, T.min(start + size, total),
                            T.min((number + 1) * size - before, near))
            return start, settle(stop - start)

        def seen(start: Expr, count: Expr, head: Expr) -> tuple[Expr, Expr]:
            which = T.bind(T.truncdiv(head, T.int32(self.heads)))
            t = T.bind(position(T.min(first + which, last)))
            far = T.bind(start >= near)
            begin = T.Select(far, near, T.max(t - (window - 1), 0) - oldest)
            end = T.Select(far, near + visible[which], t + 1 - oldest)
            a, b = (settle(T.max(T.min(edge - start, count), 0)) for edge in (begin, end))
            return a, b

        groups = Groups(T.int32(0), total, near_groups + ceil_div(total - near, size), rows, seen)
        sums.gather(lambda: self._panel(first, lambda which: position(first + which),
                                        last - first + 1), every, T.int32(0), groups)
        with T.serial(last - first + 1) as which, T.If(visible[which] >= 0), T.Then():
            token = T.bind(first + which)
            turn = self._turn(position(token))
            with T.serial(self.heads) as head:
                self._finish(sums, turn, token, head, which * self.heads + head, T.int32(1))

    def together(self, token: Expr, t: Expr, sources: Sequence[Rows], most: int) -> None:
        """The token at position t, of at most `most` rows, shared among the threads."""
        share = self.block.share()
        if share is None:
            self._by_rows(token, t, sources, most)
            return
        with T.If(total_rows(sources) <= SHARED_ROWS):
            with T.Then():
                self._by_heads(share, token, t, sources)
            if most > SHARED_ROWS:
                with T.Else():
                    self._by_rows(token, t, sources, most)

    def _by_heads(self, share: Heads, token: Expr, t: Expr, sources: Sequence[Rows]) -> None:
        """All rows for each: what a head needs, from its query to its result, is in one core."""
        shares = self.heads // share.heads
        with parallel_few(shares, shares) as own:
            part = replace(self, heads=share.heads, block=share, first=own * share.heads,
                           rows=FRESH)
            part.alone(T.bind(token * shares + own), t, sources)

    def _by_rows(self, token: Expr, t: Expr, sources: Sequence[Rows], most: int) -> None:
        tile = self.block.tile
        most_parts = min(PARTS, 2 * ceil_div(ceil_div(most, tile), 2 * PART_TILES))
        sums = self._sums(most_parts)
        total, panel = total_rows(sources), self._panel(token, lambda _: t, shared=True)
        tiles = settle(ceil_div(total, tile))
        share = settle(ceil_div(tiles, T.min(PARTS, 2 * ceil_div(tiles, 2 * PART_TILES))))
        parts = settle(ceil_div(tiles, share))
        with parallel_few(parts, most_parts) as part:
            first = T.bind(part * share * tile)
            last = settle(T.min(first + share * tile, total))
            sums.gather(lambda: panel, sources, part, even_groups(sums.size, first, last))
        turn = self._turn(t)
        with parallel_few(self.heads, self.heads) as head:
            self._finish(sums, turn, token, head, head, parts)

    def _panel(self, first: Expr, position: Callable[[Expr], Expr], count: Expr | None = None,
               shared: bool = False) -> Any:  # fmt: skip
        """Scaled queries of `count` tokens from `first` on, [blocks][width][block].

        Args:
            position: of the first token, of the next ...
            count: without, one.
            shared: threads are free for this.
        """
        block = self.block
        panel = T.alloc_buffer((block.blocks * block.panel_size,), "float32")
        q, base = self.q, T.bind(wide(first) * (self.heads * block.width))
        if self.eps is not None:
            q, base = self._turned(base, position, count, shared)
        with T.serial(block.blocks) as part:
            place = T.bind(part * block.panel_size)
            block.pack(q, base, part, panel, place, self.scale,
                       None if count is None else count * self.heads)
        return panel

    def _turned(self, base: Expr, position: Callable[[Expr], Expr], count: Expr | None,
                shared: bool) -> tuple[Any, Expr]:  # fmt: skip
        """Queries of `count` tokens, normed and turned: a buffer, and where they begin. Those of
        one token lie where its results will."""
        width, lanes = self.block.width, self.block.lanes
        out, place = self.o, base
        if count is not None:
            out, place = T.alloc_buffer((self.block.heads * width,), "float32"), T.int64(0)
        with T.serial(1 if count is None else count) as which:
            turn = table(self.freqs, self.pairs, position(which), lanes)
            heads = loop(self.heads, self.heads * width) if shared else T.serial(self.heads)
            with heads as head:
                row = T.bind((which * self.heads + head) * width)
                normalize(self.q, base + row, out, place + row, width, self.eps, lanes)
                turn.rotate(out, place + row + (width - 2 * self.pairs), lanes)
        return out, place

    def _sums(self, parts: int) -> Sums:
        return Sums(self.block, parts, group_size(self.block, self.rows), lambda head: decode(
            self.sinks, self.sink_codec, self.first + T.truncmod(head, T.int32(self.heads))))

    def _turn(self, t: Expr) -> Any:
        return table(self.freqs, self.pairs, t, self.block.lanes, inverse=True)

    def _finish(self, sums: Sums, turn: Any, token: Expr, head: Expr, place: Expr, parts: Expr
                ) -> None:  # fmt: skip
        """o[token, head] from the sums of the head `place` of the block. Inverse rope at the
        query's position: values were summed with their keys' turns."""
        base = T.bind(wide(token * self.heads + head) * self.block.width)
        sums.finish(self.o, base, place, parts)
        turn.rotate(self.o, T.bind(base + (self.block.width - 2 * self.pairs)), self.block.lanes)
