//! `[time]`: where the clock comes from.

use crate::read::At;
use crate::value::server_name;

/// Where the clock comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Time {
    /// NTP servers, by name or address. None means those that DHCP offers, and the image's own if it offers none.
    pub servers: Vec<String>,
}

impl Time {
    pub(crate) fn read(at: At<'_>) -> Self {
        let mut time = Self::default();
        let Some(fields) = at.fields(&["servers"]) else { return time };
        if let Some(at) = fields.get("servers") {
            let allowed = "a host name or an address";
            time.servers =
                at.list(allowed, |at| at.parsed(allowed, |text| server_name(text).then(|| text.to_owned())));
        }
        time
    }
}
