-- The nodes that run the loops, each with a row of its own that nobody else writes. `view` says which nodes it knows.
CREATE TABLE nodes (
    node BIGINT PRIMARY KEY,
    view BIGINT NOT NULL,
    joined_at BIGINT NOT NULL,
    beat_at BIGINT NOT NULL
) WITH (fillfactor = 50);
