//! Rules that can be broken, one at a time. The numbers are those of the list that simulator and models share;
//! what isn't numbered was found while the models were built.

use std::fmt;

/// The model in which a broken rule shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Home {
    /// [`super::epoch`].
    Epoch,
    /// [`super::data`].
    Data,
    /// [`super::heal`].
    Heal,
    /// [`super::size`].
    Size,
    /// [`super::names`].
    Names,
}

impl Home {
    /// All models.
    pub const ALL: [Home; 5] = [Home::Epoch, Home::Data, Home::Heal, Home::Size, Home::Names];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Home::Epoch => "epoch",
            Home::Data => "data",
            Home::Heal => "heal",
            Home::Size => "size",
            Home::Names => "names",
        }
    }
}

macro_rules! mutations {
    ($($name:ident: $number:expr, $home:ident, $title:literal;)*) => {
        /// A broken rule.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Mutation {
            $(#[doc = $title] $name,)*
        }

        impl Mutation {
            /// All of them.
            pub const ALL: &[Mutation] = &[$(Mutation::$name,)*];

            /// Its number in the shared list, if it has one.
            pub fn number(self) -> Option<u8> {
                match self { $(Mutation::$name => $number,)* }
            }

            /// The model that has to notice.
            pub fn home(self) -> Home {
                match self { $(Mutation::$name => Home::$home,)* }
            }

            /// What is done wrong.
            pub fn title(self) -> &'static str {
                match self { $(Mutation::$name => $title,)* }
            }
        }
    };
}

mutations! {
    OldEpochPasses: Some(1), Epoch, "an old epoch passes after a promise";
    PromiseBeforeDrain: Some(2), Epoch, "a promise is given before the ring is drained";
    CleanIgnoresGenerations: Some(7), Heal, "CLEAN ignores generations";
    RestartForgetsLease: Some(8), Epoch, "a restarted brick forgets the lease";
    BlankVotes: Some(9), Epoch, "a blank brick votes";
    EpochWithoutSession: Some(10), Epoch, "ballots are compared without the session";
    AcceptWithoutPrepare: Some(11), Epoch, "a holder accepts without preparing";
    PromiseNotSynced: Some(12), Epoch, "a promise isn't synced before the reply";
    OldConnectionSurvives: Some(3), Heal, "an old connection's requests survive a reconnect";
    ConvergeBeforeAccept: Some(4), Data, "copies are made equal before the recovering record is accepted";
    CompleteOnOldS: Some(5), Data, "a write completes on old S during an addition";
    JoinWithoutFlush: Some(6), Data, "a brick joins without a flush";
    BootAcceptedAtSameEpoch: Some(13), Data, "a new boot is accepted at the same epoch";
    CompleteBeforeDrop: Some(14), Data, "a write completes before the drop is decided";
    ArbiterCounts: Some(15), Data, "an arbiter's acknowledgement counts as a copy";
    OwnBitsForgotten: Some(18), Heal, "a heal forgets the returner's own bits";
    PullFromRestarted: Some(19), Heal, "a pull reads a source that was restarted";
    SecondWriteOvertakes: Some(20), Heal, "a second write overtakes the first to a lagging brick";
    BothDropped: Some(22), Data, "both copies refuse, and both are dropped";
    FlushRetried: Some(24), Data, "a failed flush is retried, and the retry believed";
    UnlocksEarly: Some(26), Data, "a failed write gives its claim up while it is in flight";
    HealWithoutEpoch: Some(27), Heal, "a pull is neither checked by its epoch nor drained";
    ConvergeFromCrashed: Some(28), Data, "the copy that crashed is taken as the source";
    ShrinkWithoutBits: Some(23), Size, "a shrink discards without dirty bits";
    TombstoneCollectedEarly: Some(25), Names, "a tombstone is collected before every brick has it";
    LeaseCheckedAtIssue: Some(21), Epoch, "the lease is checked only when a read is issued";
    PullBesideWrite: None, Heal, "a brick lets a pull run beside a write to its block, which the holder sends";
    DiscardBeforeLower: None, Size, "a shrink discards before the record has the lower size";
    GrowWithoutZeroing: None, Size, "a grow doesn't zero the new range";
    GrowWithoutFlush: None, Size, "a grow doesn't flush its zeroes before the record has the higher size";
    DropWithoutLooking: None, Names, "a brick that is told to drop a tombstone drops whatever it has";
    CollectorForgetsBallots: None, Names, "a brick that collects a tombstone forgets what it had promised";
    ForceWithoutWaiting: None, Epoch, "a forced takeover doesn't wait out bricks it can't fence";
    LearnWithoutFence: None, Epoch, "a blank brick learns what others hold, without a promise of theirs";
    StalePromiseCounts: None, Epoch, "a repeated promise that shows a newer record is taken for the old one";
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.number() {
            Some(number) => write!(f, "({number}) {}", self.title()),
            None => write!(f, "(new) {}", self.title()),
        }
    }
}

/// The rules a model follows: all, or all but one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    broken: Option<Mutation>,
}

impl Rules {
    /// Every rule holds.
    pub const WHOLE: Rules = Rules { broken: None };

    /// Every rule but one.
    pub fn without(mutation: Mutation) -> Rules {
        Rules { broken: Some(mutation) }
    }

    /// Whether this rule is the broken one.
    pub fn breaks(self, mutation: Mutation) -> bool {
        self.broken == Some(mutation)
    }
}
