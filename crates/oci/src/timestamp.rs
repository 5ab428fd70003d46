//! Points in time as documents and labels spell them: RFC 3339, read as Go reads it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use std::time::SystemTime;

const SECONDS_PER_DAY: i64 = 86_400;
/// 0000-01-01T00:00:00Z
const FIRST: i64 = -62_167_219_200;
/// 9999-12-31T23:59:59Z
const LAST: i64 = 253_402_300_799;

/// A point in time within the years 0 to 9999, which are all that RFC 3339 can spell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp {
    seconds: i64,
    nanoseconds: u32,
}

impl Timestamp {
    /// Midnight of 1 January 1970, which readers take for no time at all.
    pub const EPOCH: Self = Self { seconds: 0, nanoseconds: 0 };

    /// Returns the time that lies `nanoseconds` after second `seconds` since 1970, or `None` outside the years 0 to
    /// 9999 or when the nanoseconds fill a second.
    pub fn new(seconds: i64, nanoseconds: u32) -> Option<Self> {
        ((FIRST..=LAST).contains(&seconds) && nanoseconds < 1_000_000_000)
            .then_some(Self { seconds, nanoseconds })
    }

    /// Returns the whole seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Returns the nanoseconds since that second.
    pub fn nanoseconds(self) -> u32 {
        self.nanoseconds
    }

    /// Returns the second that it lies in.
    pub fn floor(self) -> Self {
        Self { nanoseconds: 0, ..self }
    }

    /// Rounds to a whole second as Go's `Time.Round` does: a half goes up, before 1970 too.
    pub fn round(self) -> Self {
        let up = self.nanoseconds >= 500_000_000 && self.seconds < LAST;
        Self { seconds: self.seconds + i64::from(up), nanoseconds: 0 }
    }
}

impl From<Timestamp> for SystemTime {
    fn from(time: Timestamp) -> SystemTime {
        let seconds = Duration::from_secs(time.seconds.unsigned_abs());
        let whole = match time.seconds < 0 {
            true => SystemTime::UNIX_EPOCH - seconds,
            false => SystemTime::UNIX_EPOCH + seconds,
        };
        whole + Duration::from_nanos(time.nanoseconds.into())
    }
}

/// A time before the year 0 becomes its first moment, one after 9999 its last.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Timestamp {
        let new = |seconds: i128, nanoseconds: u32| {
            let seconds = i64::try_from(seconds).ok()?;
            Timestamp::new(seconds, nanoseconds)
        };
        match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => new(after.as_secs().into(), after.subsec_nanos())
                .unwrap_or(Timestamp { seconds: LAST, nanoseconds: 999_999_999 }),
            Err(before) => {
                let before = before.duration();
                let (up, nanoseconds) = match before.subsec_nanos() {
                    0 => (0, 0),
                    nanoseconds => (1, 1_000_000_000 - nanoseconds),
                };
                new(-i128::from(before.as_secs()) - up, nanoseconds)
                    .unwrap_or(Timestamp { seconds: FIRST, nanoseconds: 0 })
            }
        }
    }
}

/// Prints the shortest form in UTC: no fraction for whole seconds, no zeros at the end of a fraction.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = date_of(self.seconds.div_euclid(SECONDS_PER_DAY));
        let second = self.seconds.rem_euclid(SECONDS_PER_DAY);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}")?;
        if self.nanoseconds != 0 {
            let digits = format!("{:09}", self.nanoseconds);
            write!(f, ".{}", digits.trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

/// The text is not an RFC 3339 time between the years 0 and 9999.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an RFC 3339 time of the years 0 to 9999")]
pub struct InvalidTimestamp;

/// Reads what Go's `time.Parse(time.RFC3339, …)` reads, as containerd and the readers of tables of contents do. That is
/// RFC 3339 with a capital `T` and `Z` and without leap seconds. Beyond it, an hour may have one digit, a fraction may
/// follow a comma and have more digits than count, and an offset may be as large as 24:60.
impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        parse(text.as_bytes()).ok_or(InvalidTimestamp)
    }
}

fn parse(mut text: &[u8]) -> Option<Timestamp> {
    let year = number(&mut text, 4)?;
    literal(&mut text, b'-')?;
    let month = number(&mut text, 2)?;
    literal(&mut text, b'-')?;
    let day = number(&mut text, 2)?;
    literal(&mut text, b'T')?;
    let hour = number(&mut text, 2).or_else(|| number(&mut text, 1))?;
    literal(&mut text, b':')?;
    let minute = number(&mut text, 2)?;
    literal(&mut text, b':')?;
    let second = number(&mut text, 2)?;
    let nanoseconds = fraction(&mut text)?;
    let offset = offset(text)?;

    let days = days_of(year, month, day)?;
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    Timestamp::new(days * SECONDS_PER_DAY + hour * 3600 + minute * 60 + second - offset, nanoseconds)
}

fn literal(text: &mut &[u8], expected: u8) -> Option<()> {
    *text = text.strip_prefix(&[expected])?;
    Some(())
}

fn number(text: &mut &[u8], digits: usize) -> Option<i64> {
    let (number, rest) = text.split_at_checked(digits)?;
    let value = number
        .iter()
        .try_fold(0, |value, digit| digit.is_ascii_digit().then(|| value * 10 + i64::from(digit - b'0')))?;
    *text = rest;
    Some(value)
}

/// Reads a fraction of any length, of which nine digits count.
fn fraction(text: &mut &[u8]) -> Option<u32> {
    let Some(rest) = text.strip_prefix(b".").or_else(|| text.strip_prefix(b",")) else { return Some(0) };
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let counted = digits.min(9);
    if counted == 0 {
        return None;
    }
    let value = u32::try_from(number(&mut &rest[..counted], counted)?).ok()?;
    *text = &rest[digits..];
    Some(value * 10_u32.pow(9 - counted as u32))
}

fn offset(text: &[u8]) -> Option<i64> {
    let (sign, mut text) = match text.split_first()? {
        (b'Z', []) => return Some(0),
        (b'+', rest) => (1, rest),
        (b'-', rest) => (-1, rest),
        _ => return None,
    };
    let hour = number(&mut text, 2)?;
    literal(&mut text, b':')?;
    let minute = number(&mut text, 2)?;
    (text.is_empty() && hour <= 24 && minute <= 60).then_some(sign * (hour * 3600 + minute * 60))
}

/// Counts years from March, so that the leap day is the last of its year, in cycles of 400 years.
const DAYS_PER_CYCLE: i64 = 146_097;
/// 1 March of year 0, in days since 1970.
const CYCLE_START: i64 = -719_468;

fn date_of(days: i64) -> (i64, i64, i64) {
    let days = days - CYCLE_START;
    let (cycle, day) = (days.div_euclid(DAYS_PER_CYCLE), days.rem_euclid(DAYS_PER_CYCLE));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (cycle * 400 + year + next_year, month, day)
}

fn days_of(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (march_year, march_month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (cycle, year_of_cycle) = (march_year.div_euclid(400), march_year.rem_euclid(400));
    let day_of_year = (153 * march_month + 2) / 5 + day - 1;
    let day_of_cycle = year_of_cycle * 365 + year_of_cycle / 4 - year_of_cycle / 100 + day_of_year;
    let days = cycle * DAYS_PER_CYCLE + day_of_cycle + CYCLE_START;
    // A day that its month does not have comes back as one of the next month.
    (date_of(days) == (year, month, day)).then_some(days)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64, nanoseconds: u32) -> Timestamp {
        Timestamp::new(seconds, nanoseconds).unwrap()
    }

    #[test]
    fn a_time_is_printed_in_its_shortest_form_and_read_back() {
        for (seconds, nanoseconds, text) in [
            (0, 0, "1970-01-01T00:00:00Z"),
            (-1, 0, "1969-12-31T23:59:59Z"),
            (-1, 500_000_000, "1969-12-31T23:59:59.5Z"),
            (951_782_400, 0, "2000-02-29T00:00:00Z"),
            (1_700_000_000, 123_456_789, "2023-11-14T22:13:20.123456789Z"),
            (1_700_000_000, 120, "2023-11-14T22:13:20.00000012Z"),
            (-2_203_891_200, 0, "1900-03-01T00:00:00Z"),
            (-62_135_596_800, 0, "0001-01-01T00:00:00Z"),
            (FIRST, 0, "0000-01-01T00:00:00Z"),
            (LAST, 999_999_999, "9999-12-31T23:59:59.999999999Z"),
        ] {
            assert_eq!(time(seconds, nanoseconds).to_string(), text);
            assert_eq!(text.parse(), Ok(time(seconds, nanoseconds)));
        }
    }

    #[test]
    fn every_day_of_ten_thousand_years_survives_a_round_trip() {
        for day in FIRST / SECONDS_PER_DAY..=LAST / SECONDS_PER_DAY {
            let (year, month, day_of_month) = date_of(day);
            assert_eq!(days_of(year, month, day_of_month), Some(day));
        }
    }

    #[test]
    fn an_offset_from_utc_is_taken_into_account() {
        for (text, seconds) in [
            ("1970-01-01T02:00:00+02:00", 0),
            ("1969-12-31T18:30:00-05:30", 0),
            ("1970-01-01T00:00:00.000000000+00:00", 0),
            ("1970-01-02T00:00:00+24:00", 0),
            ("1970-01-01T01:00:00+00:60", 0),
        ] {
            assert_eq!(text.parse(), Ok(time(seconds, 0)), "{text}");
        }
    }

    #[test]
    fn what_go_reads_beyond_the_standard_is_read() {
        for (text, nanoseconds) in [
            ("1970-01-01T0:00:00Z", 0),
            ("1970-01-01T00:00:00,5Z", 500_000_000),
            ("1970-01-01T00:00:00.0000000019Z", 1),
            ("1970-01-01T00:00:00.99999999999999999999999Z", 999_999_999),
        ] {
            assert_eq!(text.parse(), Ok(time(0, nanoseconds)), "{text}");
        }
    }

    #[test]
    fn times_of_the_system_are_kept_within_the_years_that_can_be_spelled() {
        for stamp in [time(0, 0), time(-1, 999_999_999), time(-2, 0), time(FIRST, 0), time(LAST, 999_999_999)]
        {
            assert_eq!(Timestamp::from(SystemTime::from(stamp)), stamp);
        }
        let far = Duration::from_secs(1 << 40);
        assert_eq!(Timestamp::from(SystemTime::UNIX_EPOCH + far), time(LAST, 999_999_999));
        assert_eq!(Timestamp::from(SystemTime::UNIX_EPOCH - far), time(FIRST, 0));
        assert_eq!(time(-1, 5).floor(), time(-1, 0));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in [
            "",
            "1970",
            "1970-01-01",
            "1970-01-01 00:00:00Z",
            "1970-01-01T00:00:00",
            "1970-01-01T00:00:00z",
            "1970-01-01T00:00:00Z ",
            "1970-01-01T00:00:00.Z",
            "1970-01-01T24:00:00Z",
            "1970-01-01T00:60:00Z",
            "1970-01-01T00:00:60Z",
            "1970-01-01T0:0:00Z",
            "1970-01-01T00:00:0Z",
            "1970-1-01T00:00:00Z",
            "1970-01-01t00:00:00Z",
            "1970-01-01T00:00:00,Z",
            "1970-01-01T00:00:00.5",
            "1970-01-01T00:00:00+25:00",
            "1970-01-01T00:00:00+00:61",
            "1970-01-01T00:00:00+0000",
            "1970-01-01T00:00:00\u{e9}",
            "1970-01-01T00:00:00+2:00",
            "1970-01-01T00:00:00+02:00Z",
            "1970-00-01T00:00:00Z",
            "1970-13-01T00:00:00Z",
            "1970-01-00T00:00:00Z",
            "1970-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "1970-04-31T00:00:00Z",
            "+970-01-01T00:00:00Z",
            "10000-01-01T00:00:00Z",
            "0000-01-01T00:00:00+00:01",
            "9999-12-31T23:59:59-00:01",
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(InvalidTimestamp), "{text}");
        }
    }

    #[test]
    fn a_time_outside_the_years_0_to_9999_cannot_be_made() {
        for (seconds, nanoseconds) in
            [(FIRST - 1, 0), (LAST + 1, 0), (i64::MIN, 0), (i64::MAX, 0), (0, 1_000_000_000)]
        {
            assert_eq!(Timestamp::new(seconds, nanoseconds), None, "{seconds} {nanoseconds}");
        }
    }

    #[test]
    fn half_a_second_is_rounded_up() {
        for (from, to) in [
            ((0, 499_999_999), 0),
            ((0, 500_000_000), 1),
            ((-1, 499_999_999), -1),
            ((-1, 500_000_000), 0),
            ((5, 0), 5),
            ((LAST, 999_999_999), LAST),
        ] {
            assert_eq!(time(from.0, from.1).round(), time(to, 0), "{from:?}");
        }
    }
}
