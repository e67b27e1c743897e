# %% exercise-1 answer
order = ["inner", "middle", "outer"]

# %% exercise-1 answer
order = ("inner", "middle", "outer")

# %% exercise-1 wrong: write the three names
order = "inner, middle, outer"

# %% exercise-1 wrong: write the three names
order = None

# %% exercise-1 wrong: its block is still open
order = ["outer", "middle", "inner"]

# %% exercise-1 wrong: which block is left next
order = ["inner", "outer", "middle"]
