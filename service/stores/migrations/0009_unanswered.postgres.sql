-- Submits by the provider's own API whose reply nobody has taken yet, there before their first byte leaves.
CREATE TABLE unanswered (
    job BIGINT PRIMARY KEY REFERENCES jobs ON DELETE CASCADE,
    tenant BIGINT NOT NULL,
    digest BYTEA NOT NULL, -- of all that makes another submit its equal
    made_at BIGINT NOT NULL,
    holder BIGINT, -- the open connection that waits for the reply; NULL: there is none
    seen_at BIGINT NOT NULL -- when it was last said to be open
);
CREATE INDEX unanswered_digest ON unanswered (tenant, digest);
