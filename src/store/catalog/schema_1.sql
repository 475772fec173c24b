-- Version 1 of the catalog: the tables of docs/format.md.
-- Foreign keys are deferred: a transaction may write rows in any order.

CREATE TABLE counter (
    id          INTEGER PRIMARY KEY CHECK (id = 1),
    next_number INTEGER NOT NULL CHECK (next_number BETWEEN 16 AND 72057594037927936)
) STRICT;
INSERT INTO counter (id, next_number) VALUES (1, 16);

CREATE TABLE families (
    id           INTEGER PRIMARY KEY AUTOINCREMENT,
    name         TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
    root         INTEGER NOT NULL REFERENCES inodes (number) DEFERRABLE INITIALLY DEFERRED,
    base         INTEGER NOT NULL REFERENCES images (id) DEFERRABLE INITIALLY DEFERRED,
    os           TEXT NOT NULL,
    os_version   TEXT NOT NULL,
    architecture TEXT NOT NULL,
    share        TEXT NOT NULL CHECK (share IN ('majority', 'all')),
    created      INTEGER NOT NULL
) STRICT;

CREATE TABLE images (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    family  INTEGER NOT NULL REFERENCES families (id) DEFERRABLE INITIALLY DEFERRED,
    name    TEXT NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 64),
    role    TEXT NOT NULL CHECK (role IN ('base', 'guest', 'working')),
    created INTEGER NOT NULL,
    source  TEXT NOT NULL
) STRICT;
-- The last id given, reserved durably before it is used (Catalog::reserve_image_id).
INSERT INTO sqlite_sequence (name, seq) VALUES ('images', 0);
CREATE INDEX images_by_family ON images (family);

CREATE TABLE inodes (
    number   INTEGER PRIMARY KEY CHECK (number BETWEEN 16 AND 72057594037927935),
    family   INTEGER NOT NULL REFERENCES families (id) DEFERRABLE INITIALLY DEFERRED,
    kind     INTEGER NOT NULL CHECK (kind IN (1, 2, 4, 6, 8, 10, 12)),
    mode     INTEGER NOT NULL CHECK (mode BETWEEN 0 AND 4095),
    uid      INTEGER NOT NULL CHECK (uid BETWEEN 0 AND 4294967295),
    gid      INTEGER NOT NULL CHECK (gid BETWEEN 0 AND 4294967295),
    size     INTEGER NOT NULL CHECK (size >= 0 AND (kind = 8 OR size = 0)),
    mtime_s  INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL CHECK (mtime_ns BETWEEN 0 AND 999999999),
    ctime_s  INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL CHECK (ctime_ns BETWEEN 0 AND 999999999),
    rdev     INTEGER NOT NULL CHECK (kind IN (2, 6) OR rdev = 0),
    links    INTEGER NOT NULL CHECK (links BETWEEN 0 AND 4294967295),
    digest   BLOB CHECK (digest IS NULL OR length(digest) = 32),
    target   BLOB,
    xattrs   BLOB,
    CHECK ((digest IS NOT NULL) = (kind = 8 AND size > 0)),
    CHECK ((target IS NOT NULL) = (kind = 10))
) STRICT;
CREATE INDEX inodes_by_family ON inodes (family);
CREATE INDEX inodes_by_digest ON inodes (digest) WHERE digest IS NOT NULL;

CREATE TABLE entries (
    parent INTEGER NOT NULL REFERENCES inodes (number) DEFERRABLE INITIALLY DEFERRED,
    name   BLOB NOT NULL CHECK (
        length(name) BETWEEN 1 AND 255 AND name NOT IN (x'2e', x'2e2e')
        AND instr(name, x'2f') = 0 AND instr(name, x'00') = 0
    ),
    number INTEGER NOT NULL REFERENCES inodes (number) DEFERRABLE INITIALLY DEFERRED,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX entries_by_number ON entries (number);

CREATE TABLE aliases (
    image    INTEGER NOT NULL REFERENCES images (id) DEFERRABLE INITIALLY DEFERRED,
    shared   INTEGER NOT NULL REFERENCES inodes (number) DEFERRABLE INITIALLY DEFERRED,
    number   INTEGER NOT NULL CHECK (number BETWEEN 1 AND 72057594037927935),
    ctime_s  INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL CHECK (ctime_ns BETWEEN 0 AND 999999999),
    mtime_s  INTEGER,
    mtime_ns INTEGER CHECK (mtime_ns BETWEEN 0 AND 999999999),
    CHECK ((mtime_s IS NULL) = (mtime_ns IS NULL)),
    PRIMARY KEY (image, shared)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX aliases_by_number ON aliases (image, number);
CREATE INDEX aliases_by_shared ON aliases (shared);

CREATE TABLE uncovers (
    id        INTEGER PRIMARY KEY AUTOINCREMENT,
    image     INTEGER NOT NULL REFERENCES images (id) DEFERRABLE INITIALLY DEFERRED,
    directory INTEGER NOT NULL CHECK (directory BETWEEN 1 AND 72057594037927935),
    name      BLOB NOT NULL CHECK (length(name) <= 255),
    number    INTEGER NOT NULL CHECK (number BETWEEN 1 AND 72057594037927935),
    action    INTEGER NOT NULL CHECK (action BETWEEN 1 AND 3)
) STRICT;
CREATE INDEX uncovers_by_image ON uncovers (image);

CREATE TABLE holds (
    image INTEGER NOT NULL REFERENCES images (id) DEFERRABLE INITIALLY DEFERRED,
    path  BLOB NOT NULL,
    PRIMARY KEY (image, path)
) STRICT, WITHOUT ROWID;

CREATE TABLE changes (
    id     INTEGER PRIMARY KEY AUTOINCREMENT,
    family INTEGER NOT NULL REFERENCES families (id) DEFERRABLE INITIALLY DEFERRED,
    time   INTEGER NOT NULL,
    who    TEXT NOT NULL,
    kind   TEXT NOT NULL,
    source TEXT NOT NULL,
    why    TEXT NOT NULL,
    taken_back INTEGER REFERENCES changes (id) DEFERRABLE INITIALLY DEFERRED,
    is_kept INTEGER NOT NULL CHECK (is_kept IN (0, 1))
) STRICT;
CREATE INDEX changes_by_family ON changes (family);

CREATE TABLE locks (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    family  INTEGER NOT NULL REFERENCES families (id) DEFERRABLE INITIALLY DEFERRED,
    pattern TEXT NOT NULL,
    UNIQUE (family, pattern)
) STRICT;

CREATE TABLE change_images (
    change    INTEGER NOT NULL REFERENCES changes (id) DEFERRABLE INITIALLY DEFERRED,
    image     INTEGER NOT NULL REFERENCES images (id) DEFERRABLE INITIALLY DEFERRED,
    untouched BLOB NOT NULL,
    PRIMARY KEY (change, image)
) STRICT, WITHOUT ROWID;
CREATE INDEX change_images_by_image ON change_images (image);
