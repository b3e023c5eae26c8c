-- Devices get a size, permissions, an owner and a time of their own, and may be without upstream.

CREATE TEMP TABLE old_devices AS SELECT id, name, size_bytes, type, inode, mtime_ns FROM devices;
DROP VIEW device_summary;
DROP TABLE devices;
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
INSERT INTO devices(id, name, size_bytes, type, inode, mtime_ns) SELECT * FROM temp.old_devices;
DROP TABLE temp.old_devices;
CREATE VIEW device_summary AS
WITH size(block_size) AS (SELECT value FROM globals WHERE key = 'block_size'),
device AS (
    SELECT id, name, type,
           coalesce(virtual_bytes, size_bytes) AS size_bytes,
           (coalesce(virtual_bytes, size_bytes) + block_size - 1) / block_size AS blocks,
           min((size_bytes + block_size - 1) / block_size,
               (coalesce(virtual_bytes, size_bytes) + block_size - 1) / block_size,
               coalesce(shown_blocks, 1099511627776)) AS shown_blocks
    FROM devices CROSS JOIN size
),
mapped AS (
    SELECT d.id,
           sum(iif(kind = 0, length, 0)) AS remapped,
           sum(iif(kind = 1, length, 0)) AS cow,
           sum(max(0, min(length, d.id * 1099511627776 + shown_blocks - first_block))) AS hidden,
           count(*) AS extents
    FROM extents JOIN device d ON d.id = first_block >> 40 GROUP BY d.id
)
SELECT d.id, name, type, size_bytes, blocks,
       shown_blocks - coalesce(hidden, 0) AS original_blocks,
       coalesce(remapped, 0) AS remapped_blocks,
       coalesce(cow, 0) AS cow_blocks,
       blocks - (shown_blocks - coalesce(hidden, 0)) - coalesce(remapped + cow, 0) AS zero_blocks,
       coalesce(extents, 0) AS extents
FROM device d LEFT JOIN mapped m ON m.id = d.id
ORDER BY d.id;
