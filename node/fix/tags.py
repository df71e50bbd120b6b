"""Fields by their numbers, and values that stand for something: FIXT.1.1, FIX 5.0 SP2 and the fields of Coinbase
Exchange.
"""

from __future__ import annotations

from statemachine.types import SelfTradePrevention, Side, TimeInForce

BEGIN_STRING = "FIXT.1.1"
FIX50SP2 = "9"

ACCOUNT, AVG_PX, BEGIN_SEQ_NO, CL_ORD_ID, COMMISSION, CUM_QTY, END_SEQ_NO, EXEC_ID, EXEC_INST = 1, 6, 7, 11, 12, 14, 16, 17, 18
EXEC_REF_ID = 19
LAST_PX, LAST_QTY, MSG_SEQ_NUM, MSG_TYPE, NEW_SEQ_NO, ORDER_ID, ORDER_QTY, ORD_STATUS, ORD_TYPE = (
    31,
    32,
    34,
    35,
    36,
    37,
    38,
    39,
    40,
)
ORIG_CL_ORD_ID, POSS_DUP, PRICE, REF_SEQ_NUM, SENDER, SENDING_TIME, SIDE, SYMBOL, TARGET, TEXT = (
    41,
    43,
    44,
    45,
    49,
    52,
    54,
    55,
    56,
    58,
)
TIME_IN_FORCE, TRANSACT_TIME, RAW_DATA_LENGTH, RAW_DATA, POSS_RESEND, ENCRYPT_METHOD, STOP_PX = 59, 60, 95, 96, 97, 98, 99
CXL_REJ_REASON, ORD_REJ_REASON, HEART_BT_INT, TEST_REQ_ID, ORIG_SENDING_TIME, GAP_FILL, EXPIRE_TIME = (
    102,
    103,
    108,
    112,
    122,
    123,
    126,
)
RESET_SEQ_NUM, NO_MISC_FEES, MISC_FEE_AMT, MISC_FEE_CURR, MISC_FEE_TYPE, NO_RELATED_SYM, EXEC_TYPE, LEAVES_QTY = (
    *(141, 136, 137, 138, 139, 146, 150, 151),
)
CASH_ORDER_QTY, MD_REQ_ID, SUBSCRIPTION_TYPE, MARKET_DEPTH, NO_MD_ENTRY_TYPES, NO_MD_ENTRIES = 152, 262, 263, 264, 267, 268
MD_ENTRY_TYPE, MD_ENTRY_PX, MD_ENTRY_SIZE, MD_UPDATE_ACTION, MD_REJ_REASON = 269, 270, 271, 279, 281
REF_TAG_ID, REF_MSG_TYPE, REJECT_REASON, EXEC_RESTATEMENT_REASON, BUSINESS_REF_ID, BUSINESS_REASON = 371, 372, 373, 378, 379, 380
CXL_REJ_RESPONSE_TO, MASS_CANCEL_TYPE, MASS_CANCEL_RESPONSE, MASS_CANCEL_REJ_REASON, TOTAL_AFFECTED = 434, 530, 531, 532, 533
USERNAME, PASSWORD, LAST_RPT_REQUESTED, ORD_STATUS_REQ_ID, TRD_MATCH_ID, AGGRESSOR, DEFAULT_APPL_VER, MASS_REPORT_ID = (
    *(553, 554, 912, 790, 880, 1057, 1137, 1369),
)
RPT_SEQ, MD_ENTRY_ID, AGGRESSOR_SIDE = 83, 278, 2446
SECURITY_STATUS_REQ_ID, SECURITY_TRADING_STATUS = 324, 326
SELF_TRADE_TYPE, CANCEL_ON_DISCONNECT, DROP_COPY = 7928, 8013, 9406

SIDES = {"1": Side.BUY, "2": Side.SELL}
SIDE_CODES = {side: code for code, side in SIDES.items()}
TIMES = {"1": TimeInForce.GTC, "3": TimeInForce.IOC, "4": TimeInForce.FOK, "6": TimeInForce.GTT}
TIME_CODES = {time: code for code, time in TIMES.items()}
SELF_TRADE_TYPES = {
    "D": SelfTradePrevention.DC,
    "O": SelfTradePrevention.CO,
    "N": SelfTradePrevention.CN,
    "B": SelfTradePrevention.CB,
}
MARKET, LIMIT, STOP, STOP_LIMIT = "1", "2", "3", "4"
"""Values of OrdType."""

POST_ONLY = "6"
"""ExecInst: participate, do not initiate."""

ADMIN = frozenset({"0", "1", "2", "3", "4", "5", "A"})
"""Types of the session layer's messages: on a resend a gap fill stands for them."""
