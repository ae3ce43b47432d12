//! `Cache-Status` (RFC 9211): how an answer came about, for the person who reads it with curl.

use std::fmt::{self, Write};
use std::time::Duration;

/// Bytes of a usual one.
const USUAL_BYTES: usize = 64;

/// One member of the header, ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CacheStatus {
    /// Served from what was kept and fresh.
    Hit {
        /// Remaining lifetime; `None` where there is none to speak of.
        ttl: Option<Duration>,
        /// From where: `memory`, `disk`, `overlay`.
        detail: &'static str,
    },
    /// Served from what was kept and is past its lifetime.
    Stale {
        /// By how much.
        by: Duration,
        /// Why it is served all the same, such as `stale-connect` or `stale-while-revalidate`.
        detail: String,
    },
    /// Fetched for this request.
    Miss {
        /// True when it waited for a fetch that another request began.
        collapsed: bool,
        /// Why it could not be stored, such as `uncached-disk_full`; `None` when it was.
        uncached: Option<&'static str>,
    },
    /// Not served.
    Failed {
        /// The code of the error.
        detail: &'static str,
    },
}

impl CacheStatus {
    /// As the field has it.
    pub fn text(&self) -> String {
        let mut text = String::with_capacity(USUAL_BYTES);
        // To a text, which takes everything.
        let _ = write!(text, "{self}");
        text
    }

    /// The label for metrics and the access log.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Hit { .. } => "hit",
            Self::Stale { .. } => "stale",
            Self::Miss { collapsed: false, .. } => "miss",
            Self::Miss { collapsed: true, .. } => "collapsed",
            Self::Failed { .. } => "error",
        }
    }
}

impl fmt::Display for CacheStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("larder; ")?;
        match self {
            Self::Hit { ttl: Some(ttl), detail } if *ttl < Duration::from_secs(u64::from(u32::MAX)) => {
                f.write_str("hit; ttl=")?;
                ttl.as_secs().fmt(f)?;
                f.write_str("; detail=")?;
                f.write_str(detail)
            }
            Self::Hit { detail, .. } => write!(f, "hit; detail={detail}"),
            Self::Stale { by, detail } => write!(f, "hit; ttl=-{}; detail={detail}", by.as_secs()),
            Self::Miss { collapsed, uncached } => {
                f.write_str("fwd=uri-miss")?;
                match (collapsed, uncached) {
                    (true, _) => f.write_str("; collapsed")?,
                    (false, None) => f.write_str("; stored")?,
                    (false, Some(_)) => {}
                }
                uncached.map_or(Ok(()), |detail| write!(f, "; detail={detail}"))
            }
            Self::Failed { detail } => write!(f, "fwd=uri-miss; detail={detail}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_the_form_of_rfc_9211() {
        let ttl = Some(Duration::from_secs(5));
        for (status, text) in [
            (CacheStatus::Hit { ttl, detail: "memory" }, "larder; hit; ttl=5; detail=memory"),
            (CacheStatus::Hit { ttl: None, detail: "overlay" }, "larder; hit; detail=overlay"),
            (CacheStatus::Hit { ttl: Some(Duration::MAX), detail: "disk" }, "larder; hit; detail=disk"),
            (
                CacheStatus::Stale { by: Duration::from_secs(9), detail: "stale-connect".into() },
                "larder; hit; ttl=-9; detail=stale-connect",
            ),
            (CacheStatus::Miss { collapsed: false, uncached: None }, "larder; fwd=uri-miss; stored"),
            (CacheStatus::Miss { collapsed: true, uncached: None }, "larder; fwd=uri-miss; collapsed"),
            (
                CacheStatus::Miss { collapsed: false, uncached: Some("uncached-disk_full") },
                "larder; fwd=uri-miss; detail=uncached-disk_full",
            ),
            (CacheStatus::Failed { detail: "not_found" }, "larder; fwd=uri-miss; detail=not_found"),
        ] {
            assert_eq!(status.to_string(), text);
        }
    }
}
