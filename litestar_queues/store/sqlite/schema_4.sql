-- Version 4: large texts have rows of their own, see ``texts``; their columns in lq_job are empty then.

CREATE TABLE lq_payload (
    job  INTEGER PRIMARY KEY REFERENCES lq_job (number) ON DELETE CASCADE,
    text TEXT    NOT NULL
) STRICT;
CREATE TABLE lq_result (
    job  INTEGER PRIMARY KEY REFERENCES lq_job (number) ON DELETE CASCADE,
    text TEXT    NOT NULL
) STRICT;
