-- Files that clients uploaded. Only a finished one is seen, and only until it expires; deleting sets expires_at to 0.
CREATE TABLE files (
    num INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant INTEGER NOT NULL REFERENCES tenants,
    name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size INTEGER NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    finished_at INTEGER
);
CREATE INDEX files_tenant ON files (tenant);
CREATE INDEX files_expiry ON files (expires_at);

-- 256 KiB each. With a number of its own for its key: a table ordered by (file, place) would keep blobs in its index.
CREATE TABLE file_chunks (
    num INTEGER PRIMARY KEY,
    file INTEGER NOT NULL REFERENCES files,
    place INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (file, place)
);
