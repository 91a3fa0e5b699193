//! Stores that differ from Amazon S3 in what they answer.
