"""What an update (`merge.py`) tells of rows that count otherwise than one may think, in words."""

STAYS_REPLACED = "an older mask of it, which was corrected since, stays replaced"
STAYS_REJECTED = "this mask was rejected, which stands; give another mask, or accept it on the page of the review"
NOT_REJECTED = "it was rejected, but this is another mask, which counts from now on"
MAYBE_REJECTED = "it was rejected, and of which mask is not known; this one counts from now on"
ACCEPTED_SINCE = "it was rejected, and accepted since"
EARLIER_PHOTO = "it was decided on an earlier photo, of another size, and does not count"
EARLIER_TEXT = "it was decided on an earlier text, which the folder no longer has, and does not count"
MASK_COUNTS = "it was decided on an earlier text, which the folder no longer has; its mask is the object's"
LIFTED = "what was rejected was a label of the earlier photo; it counts as not looked at from now on"
NAME_ONE = (
    "give the row the `id` that the meant one was imported with, or the `sent_id` of an export; without either, import "
    "all anew as another --dataset, with an `id` for each object"
)
NAME_RUN = (
    "its `sent_id` is that of one object in the data set of its export and of another one here: give the row the "
    "`provenance` that it was exported with, which names the data set, or leave out `sent_id` and give another `id`, "
    "which makes it a new object"
)
