-- Usage may arrive in portions of a segment (through a stream), and twice. Guarantees: every byte of a segment's file is taken
-- once, however the file is cut, whoever brings it (a shipper with the whole of it, consumers with portions), in whatever order,
-- however often. `taken` is claimed in the transaction that writes what lies in it, under the row's lock.
--
-- Segments that stand here already were taken whole, and so is what a gateway of before this migration writes: it names no
-- ranges. A constant as the default: no row is rewritten.
ALTER TABLE usage_segments ADD COLUMN taken int8multirange NOT NULL DEFAULT '{(,)}';
