-- The tables of a thincow store, version 2.
--
-- Lengths are in blocks of globals.block_size bytes. A block address is
-- device id * 2^40 + index of the block in the device.
-- kind and target say where the content of a block is:
--   kind 0 (upstream): target is a block address of an upstream device
--   kind 1 (cow):      target is a block number in the file cowdata
--   kind 2 (zero):     all bytes are zero; target is 0

-- Facts about the whole store:
--   store_id       text, the same as in the file cowdata.id
--   block_size     bytes in a block
--   window_blocks  blocks in a window; no row of extents or cow crosses a multiple of it
--   generation     number of the last commit
--   clean          1 while the store is closed properly, else 0
--   hash_entries   number of rows in hashes
--   checksum_bits  width of the sums in checksums; 0: none are kept
--   entries_lost   1 while contents of cowdata may lack their entries in hashes; may be missing
CREATE TABLE globals (
    key   TEXT PRIMARY KEY NOT NULL,
    value ANY NOT NULL
) STRICT, WITHOUT ROWID;

-- The devices: upstream as it was when last opened (type none: there is none), and from
-- virtual_bytes on what is shown in the place of what upstream says. NULL: nothing but that.
CREATE TABLE devices (
    id            INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 2097151),
    name          TEXT    NOT NULL UNIQUE,                       -- file name below the upstream directory
    size_bytes    INTEGER NOT NULL CHECK (size_bytes >= 0),      -- of upstream
    type          TEXT    NOT NULL CHECK (type IN ('file', 'block', 'none')),
    inode         INTEGER,                                       -- of upstream; regular files only
    mtime_ns      INTEGER,                                       -- of upstream; regular files only
    virtual_bytes INTEGER CHECK (virtual_bytes >= 0),            -- size; NULL: that of upstream
    shown_blocks  INTEGER CHECK (shown_blocks >= 0),             -- those of upstream after these were cut
    flush_bytes   INTEGER CHECK (flush_bytes >= 0),              -- that a flush is making upstream's
    mode          INTEGER CHECK (mode BETWEEN 0 AND 4095),       -- permissions; NULL: never changed
    uid           INTEGER CHECK (uid BETWEEN 0 AND 4294967295),
    gid           INTEGER CHECK (gid BETWEEN 0 AND 4294967295),
    modified_ns   INTEGER                                        -- modification time that is shown
) STRICT;

-- Sampled contents of upstream, to notice that it changed behind our back.
CREATE TABLE fingerprints (
    block INTEGER PRIMARY KEY,                                   -- block address
    hash  INTEGER NOT NULL                                       -- xxh3_64 of the zero-extended block, signed
) STRICT;

-- The map: where the content of each virtual block is. A block without a row
-- is its own upstream block (identity), or zero where upstream ends or was cut.
CREATE TABLE extents (
    first_block INTEGER PRIMARY KEY,                             -- block address
    length      INTEGER NOT NULL CHECK (length > 0),
    kind        INTEGER NOT NULL CHECK (kind IN (0, 1, 2)),
    target      INTEGER NOT NULL CHECK (target >= 0)             -- of the first block; the others follow
) STRICT;

-- Reference counts of the blocks in cowdata, as runs of equal counts. A block without a row is free.
CREATE TABLE cow (
    first_block INTEGER PRIMARY KEY CHECK (first_block >= 0),    -- block number in cowdata
    length      INTEGER NOT NULL CHECK (length > 0),
    refs        INTEGER NOT NULL CHECK (refs > 0)
) STRICT;

-- Where a content was seen. A hint, never proof: contents are compared before they are shared.
CREATE TABLE hashes (
    hash   INTEGER PRIMARY KEY,                                  -- xxh3_64 of the zero-extended block, signed
    kind   INTEGER NOT NULL CHECK (kind IN (0, 1, 2)),
    target INTEGER NOT NULL CHECK (target >= 0)
) STRICT;

-- Upstream blocks that a flush is writing or could not write: until they are written and synced
-- their contents are unknown. Nothing refers to them.
CREATE TABLE flushing (
    first_block INTEGER PRIMARY KEY,                             -- block address
    length      INTEGER NOT NULL CHECK (length > 0)
) STRICT;

-- Checksums of virtual blocks, kept with --checksum-bits, in chunks of up to 512 blocks.
CREATE TABLE checksums (
    first_block INTEGER PRIMARY KEY,                             -- block address
    length      INTEGER NOT NULL CHECK (length BETWEEN 1 AND 512),
    bits        INTEGER NOT NULL CHECK (bits IN (8, 16, 32, 64)),
    present     BLOB NOT NULL,                                   -- one bit a block, least significant first
    sums        BLOB NOT NULL                                    -- length sums of bits/8 bytes, little endian
) STRICT;
