"""`make compare`: L2L, the rules, ablations and ceilings over several seeds, with intervals. Start at `__main__`.

    rows            what is compared: one row is a change of the config, one name apart
    records         what is kept of a finished row: one small file each, committed, so that no run is needed again
    worker          one row, in a process of its own: the run, its last version on every split, the record
    runner          which rows are left, how long they take, and two of them at a time
    summary         from the records to figures: differences to L2L, intervals, Holm, the recovered share, cost
    tables          the figures as Markdown
    table_notes     what stands beneath a table
    oracles         ceilings that see hidden truth
    biased_prior    priors that are wrong on purpose
    cost            processor seconds by what they were for

Nothing here is reached from the package: hidden truth and priors made with it stay in this folder.
"""
