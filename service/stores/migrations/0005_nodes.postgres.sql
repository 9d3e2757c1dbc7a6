-- The nodes that run the loops, each with a row of its own, and the seats by which limits are divided among them.
CREATE TABLE nodes (
    node BIGINT PRIMARY KEY,
    joined_at BIGINT NOT NULL,
    beat_at BIGINT NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE seats (seat BIGINT PRIMARY KEY, node BIGINT NOT NULL, until BIGINT NOT NULL) WITH (fillfactor = 50);
INSERT INTO seats SELECT seat, 0, 0 FROM generate_series(0, 63) seat;
