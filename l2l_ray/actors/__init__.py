"""The Ray layer: roles as plain classes, made into actors where they are created. Start at `driver.run`.

Nothing outside this folder (and `tune_spaces/`) imports ray. Ray reads most of its environment when it is first
imported, so a job calls `environment.set_environment` before it imports the rest.
"""
