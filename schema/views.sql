-- Views for people. Nothing in the program reads them.

-- One row a device: where its blocks have their content.
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

-- One row an extent, with names and bytes instead of block addresses.
CREATE VIEW extent_list AS
WITH size(block_size) AS (SELECT value FROM globals WHERE key = 'block_size')
SELECT d.name AS device,
       (e.first_block & 1099511627775) * block_size AS offset_bytes,
       e.length * block_size AS length_bytes,
       CASE e.kind WHEN 0 THEN 'upstream' WHEN 1 THEN 'cow' ELSE 'zero' END AS kind,
       iif(e.kind = 0, t.name, NULL) AS target_device,
       CASE e.kind WHEN 0 THEN (e.target & 1099511627775) * block_size
                   WHEN 1 THEN e.target * block_size END AS target_offset_bytes
FROM extents e CROSS JOIN size
LEFT JOIN devices d ON d.id = e.first_block >> 40
LEFT JOIN devices t ON e.kind = 0 AND t.id = e.target >> 40
ORDER BY e.first_block;

-- One row: what the store holds.
CREATE VIEW space_use AS
WITH size(block_size) AS (SELECT value FROM globals WHERE key = 'block_size'),
used AS (
    SELECT coalesce(sum(length), 0) AS blocks,
           coalesce(sum(length * refs), 0) AS references_,
           coalesce(max(first_block + length), 0) AS end_block
    FROM cow
)
SELECT blocks AS cow_blocks,
       blocks * block_size AS cow_bytes,
       end_block - blocks AS free_blocks,
       end_block * block_size AS cowdata_bytes,
       references_ AS cow_references,
       (SELECT value FROM globals WHERE key = 'hash_entries') AS hash_entries
FROM used CROSS JOIN size;

-- What deduplication saved: blocks that were written but are not stored.
CREATE VIEW savings AS
WITH size(block_size) AS (SELECT value FROM globals WHERE key = 'block_size'),
saved(kind, blocks) AS (
    SELECT 'upstream', coalesce(sum(length), 0) FROM extents WHERE kind = 0
    UNION ALL
    SELECT 'cow', coalesce(sum(length * (refs - 1)), 0) FROM cow
    UNION ALL
    SELECT 'zero', coalesce(sum(length), 0) FROM extents WHERE kind = 2
)
SELECT kind, blocks, blocks * block_size AS bytes FROM saved CROSS JOIN size
UNION ALL
SELECT 'total', sum(blocks), sum(blocks) * block_size FROM saved CROSS JOIN size;
