"""Nothing about dialogue: run directories, processes, jobs, an HTTP client with a cache."""
