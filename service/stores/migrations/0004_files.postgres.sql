-- Files that clients uploaded. Only a finished one is seen, and only until it expires; deleting sets expires_at to 0.
CREATE TABLE files (
    num BIGSERIAL PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant BIGINT NOT NULL REFERENCES tenants,
    name TEXT NOT NULL,
    content_type TEXT NOT NULL,
    size BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    finished_at BIGINT
);
CREATE INDEX files_tenant ON files (tenant, num);
CREATE INDEX files_expiry ON files (expires_at);

-- 256 KiB each.
CREATE TABLE file_chunks (
    num BIGSERIAL PRIMARY KEY,
    file BIGINT NOT NULL REFERENCES files,
    place BIGINT NOT NULL,
    data BYTEA NOT NULL,
    UNIQUE (file, place)
);
