"""What a cluster recorded or begins with: audits, transaction logs, backups, exports, datasets, order flow."""
