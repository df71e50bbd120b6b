"""One module for each step; `down_revision` names the previous one."""
