"""The same work on a cluster: rows in, batches on warm workers of Ray, rows out into Parquet.

    cluster    opens Ray, here or at an address, and closes it
    places     files of this machine, S3 and Google Cloud Storage alike, through pyarrow
    sources    tables, pictures and archives as rows with ids
    engine     rows of a source through workers into a folder, each id once

No method knows of this. A `Work` is what one machine calls too: it loads its models once, and makes rows of rows.
"""
